"""What a person has in a file: recognised, described field by field, verified step by step."""
