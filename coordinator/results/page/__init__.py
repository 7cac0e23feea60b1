"""The HTML page of a job: one module for each section, and the pictures that they are made of.

A section is a function from what is known of the job to words, pictures and tables; it has no
HTML but that of its pictures. ``coordinator/results/html_report.py`` puts them together.
"""
