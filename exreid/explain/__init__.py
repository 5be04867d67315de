"""Why an answer was given: pictures and plain words, made from a run's files."""
