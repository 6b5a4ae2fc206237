"""Records of databases and what they are made of: Datum, images, means, lists, LMDB."""
