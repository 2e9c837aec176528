"""The data: from images to one HDF5 file (a pack), and from a pack to arrays.

sources      read images from folders, archives and pickles (a package)
synthetic    generate images instead
labelled     read a user's own small set of images, for `nilr adapt`
pack_writer  write a pack
pack         open, check and serve a pack
digests      the digests of a pack
file_types   recognise a file by its first bytes
"""
