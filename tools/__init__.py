"""What developers run and vehicles do not get: training the shipped encoder, drawing pictures for the documentation."""
