"""Alternative accuracy-versus-memory surfaces as objects, so that they can be fitted to the same data and compared."""
