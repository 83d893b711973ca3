"""Messages that cross a boundary, versioned; JSON Schemas are generated from here."""
