"""From numbers to what people read: tables in the terminal, HTML pages that open offline, pictures.

What belongs here: formatting of results that others computed. `charts.py` and `network_graph.py` say what is drawn; `svg.py`
draws it into pages and `plots.py` into files; each kind of page has a module and a template.
"""
