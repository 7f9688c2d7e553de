"""Files that are whole or absent: drafts, outputs, directories in which others may write, digests."""
