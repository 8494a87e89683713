"""The runs behind the tables and pictures of the READMEs."""
