"""Every way in which class-labelled images arrive, each as one list of members that can be read."""
