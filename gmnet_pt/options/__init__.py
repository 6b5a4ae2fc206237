"""The options of the commands that compute, a file each, without torch: for help and completion.

The commands are the modules of the same name in `gmnet_pt`.
"""
