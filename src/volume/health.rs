//! What is wrong with a volume, seen from the controller.
