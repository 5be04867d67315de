"""The only place that knows Ray: adapters around plain classes."""
