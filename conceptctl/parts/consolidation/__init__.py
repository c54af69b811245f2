"""What is done about earlier concepts beside or after a training: Fisher matrices, classifier scores, distillation."""
