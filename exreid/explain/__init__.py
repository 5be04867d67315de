"""Why an answer was given: pictures and plain words, made of what a run found."""
