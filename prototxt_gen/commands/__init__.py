"""What the generator does at the command line, a file a command."""
