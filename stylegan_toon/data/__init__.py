"""Pictures: files, archives and tar shards of them, dataset classes, and the order in which training reads them."""
