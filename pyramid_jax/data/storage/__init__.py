"""Where the files of a data set lie: in folders, archives or an LMDB."""
