"""The devices: who is there, who gets what, who builds it."""
