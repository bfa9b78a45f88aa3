"""One run: data -> step -> checkpoint -> track."""
