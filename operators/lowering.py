"""Native lowerings of ODL's operators."""
