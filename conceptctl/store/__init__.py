"""The store: immutable blobs, a hash-chained history, and one small database that says where it stands."""
