"""Generated data: what the demo, the tests and the retention study train on when COCO and ADE20K are not at hand."""
