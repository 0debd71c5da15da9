"""What the scripts datasets/<name>/prepare.py share: tables of a release, lists, checks."""
