"""The sources of a pack: from folders, archives and pickles of images to decoded classes.

containers   the table of containers; list all images in the paths that a user gives
members      members, listings and the interface of a reader
folders      reader of folders
tars         reader of tars, compressed tars and tars in tars
zips         reader of zips
array_files  reader of pickles, npz and npy files
arrays       classes and images in named values, as such files have them
parquet      reader of Parquet files
unpickling   a pickle's content, without unpickling
tree         which folders are splits, and which are classes
plans        a plan of a pack, and warnings about it
layouts      plan which image belongs to which class and split
annotations  lists of images and their classes
splits       draws by seed, and split files
datasets     the standard data sets and their published splits
decoding     encoded images -> RGB or grey arrays of one size
streaming    a plan -> decoded classes, with several threads
"""
