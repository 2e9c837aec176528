"""Images -> one HDF5 file: reading, splitting, packing, serving."""
