"""What everything here may use and what uses nothing here: errors, files, quantities."""
