"""Files, their bytes declared once: protobuf wire, blobs, HDF5, caffemodels, solver states."""
