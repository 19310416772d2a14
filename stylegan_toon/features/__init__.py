"""Networks whose features are used to compare pictures."""
