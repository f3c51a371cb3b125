"""From numbers to what people read: tables in the terminal, an HTML page.

What belongs here: formatting of results that others computed.
"""
