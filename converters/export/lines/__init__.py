"""Layer types as lines of torch, a file per family; each file here is found by its being here."""
