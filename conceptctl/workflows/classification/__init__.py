"""Classes learned one task after the other, by a transformer that stays one."""
