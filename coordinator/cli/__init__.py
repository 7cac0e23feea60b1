"""The command `tunefarm`, one file a group. Heavy imports only where a command needs them."""
