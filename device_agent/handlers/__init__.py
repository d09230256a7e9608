"""Install handlers, one per component type."""
