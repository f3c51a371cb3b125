"""Files that users name: read with one sentence for what is wrong; checked first, written whole, and of one run at a time."""
