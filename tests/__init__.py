"""Claims about the project, each checked against something independent."""
