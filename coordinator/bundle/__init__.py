"""What a device needs to run the agent without the compiler, for other architectures, too."""
