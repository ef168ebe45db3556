//! Whole-system tests live beside this file as test targets; this library only gives the package a root.
//! It deliberately holds no helpers: what tests share is in `synod_testnet::processes`.
