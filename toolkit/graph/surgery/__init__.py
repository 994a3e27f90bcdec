"""onnx-graphsurgeon's graph: conversion from and to an ONNX message, its tensors, node order, and opset."""
