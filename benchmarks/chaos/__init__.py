"""A farm on which something breaks all the time, and what is left of its promises at the end."""
