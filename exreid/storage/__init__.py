"""What lies on disk: files, copies of URLs, arrays, features, pairs, run folders."""
