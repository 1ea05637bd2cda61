"""Files in and out: slide images, panels, label images, tables, pickles."""
