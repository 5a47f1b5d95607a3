"""Erasing uploads at a site: the store, the worklist's database, and on a laptop the files of the home.

site (the places, and what lies beyond them) -> home_files, broker_batches (what only a laptop has)
"""
