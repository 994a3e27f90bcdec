#!/usr/bin/env bash
# What built the digits CNN up to TensorRT 10: implicit INT8 by a calibration cache. `qtool migrate` reads it, and runs none of it.
MODEL=models/digits_cnn.onnx
trtexec --onnx=$MODEL --int8 --fp16 --calib=recipes/digits.cache \
  --minShapes=image:1x1x8x8 --optShapes=image:32x1x8x8 --maxShapes=image:64x1x8x8 \
  --precisionConstraints=obey --layerPrecisions='/head/*':fp32 \
  --memPoolSize=workspace:1024 --timingCacheFile=digits.timing --useCudaGraph --saveEngine=digits.engine
