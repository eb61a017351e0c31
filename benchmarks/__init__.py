"""The scripts behind every number of the project; each says in its first lines how it is run."""
