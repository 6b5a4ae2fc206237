"""What command lines share: parsing and errors, progress, the options that choose a net."""
