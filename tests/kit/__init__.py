"""What tests share, a module for each subject."""
