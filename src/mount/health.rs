//! What is wrong with a published volume, and with the servers in use on this node.
