"""The coordinator: takes jobs, searches, dispatches, learns, packages."""
