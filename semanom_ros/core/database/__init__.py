"""The nominal database: files, versions, search."""
