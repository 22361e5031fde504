"""The templates in workflows/ and the blueprint in subgraphs/: what is in them, how files and pictures are made.

page.py       nodes in columns -> a file as the browser saves it
stories.py    the templates: a note, a graph, and which pictures show what it does
blueprint.py  Invert and Edit: the whole job as one node
stand_in.py   the demo model in the place of a template's own, to run it without a download
thumbnail.py  the picture beside a template in the browser
"""
