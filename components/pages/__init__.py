"""What the pages for people share: their frame, style and tables, and how figures are written."""
