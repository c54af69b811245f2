"""The command line: one verb a file, data on stdout, prose and progress on stderr."""
