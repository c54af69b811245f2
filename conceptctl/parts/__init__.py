"""What methods are composed of; knows no method."""
